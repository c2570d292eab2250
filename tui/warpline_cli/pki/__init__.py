"""An authority of one's own: who may call the collector, in certificates, kept in a directory."""
