"""Protocol and decisions without I/O."""
