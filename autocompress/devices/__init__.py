"""What a device costs: its profile, what a file executes, and the latency of the two."""
