"""What the parts of warpline must agree on: tables, batches, findings, captures and the wire between them."""
