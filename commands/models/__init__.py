"""Commands about models before they are loaded."""
