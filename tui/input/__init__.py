"""Keys and commands: the registry of actions, run control, seeking."""
