"""The PostgreSQL door: what psql, psycopg, Grafana and BI tools speak, answered by the same SQL workers as every other door."""
