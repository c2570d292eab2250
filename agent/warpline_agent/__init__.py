"""The node agent: sources -> compressor -> spool -> exporter."""
