"""The machine a run happens on: memory, temperatures, and why a reading is missing."""
