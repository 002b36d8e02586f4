"""The dashboard's screens: the main one, help, and those that ask for text."""
