"""What several tests use: small networks, tasks, devices, studies."""
