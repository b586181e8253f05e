"""What the nodes share: quality of service, parameters, diagnostics, the life of a process."""
