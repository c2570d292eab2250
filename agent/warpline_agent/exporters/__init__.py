"""Every exporter by name. One line each."""
