"""The dashboard's screens: the main screen, help, sessions and dialogs."""
