"""What the collector tells a monitoring system of itself, its fleet and the GPUs: /metrics and /healthz."""
