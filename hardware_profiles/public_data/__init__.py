"""Device profiles from public measurements: readers of the tables, workloads of the networks, a joint fit."""
