"""What models cost on this machine: scripts with a shared core, and the results that are quoted."""
