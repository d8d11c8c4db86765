"""Keys and certificates: who may sign what, and who may talk to the broker."""
