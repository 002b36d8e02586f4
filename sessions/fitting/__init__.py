"""Half-life fits of session files and of P_mid series."""
