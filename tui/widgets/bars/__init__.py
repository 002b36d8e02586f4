"""One-line widgets: header, footer, timeline, tabs, banner."""
