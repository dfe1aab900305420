"""Other model servers: their pins, the identity models they serve, and how one is installed and started."""
