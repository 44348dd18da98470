"""What stands behind /dev/som."""
