"""Serve videos over HTTP and the Model Context Protocol, from this machine to its user."""
