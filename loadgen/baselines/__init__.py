"""Published and plain schedulers, one file each, to be run on the same arrivals as ours."""
