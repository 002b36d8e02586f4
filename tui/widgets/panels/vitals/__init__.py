"""Panel of the machine's vitals: its layout, the readings of memory, and the readings of heat."""
