"""Sockets and stores: the clients that move bytes."""
