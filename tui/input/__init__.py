"""Keys and commands: the registry of actions, commands to the source, seeking."""
