"""Saves with the real client libraries of Azure, Google Cloud, SFTP and WebHDFS, against servers on loopback."""
