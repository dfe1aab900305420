"""What neighbours cost each other: measured with probes, predicted with bounds, corrected by live traffic."""
