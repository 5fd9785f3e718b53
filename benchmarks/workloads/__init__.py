"""One file per workload; adding one is all that is needed to have it run."""
