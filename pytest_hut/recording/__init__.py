"""From events to evidence files and reports; reads journals, touches no board."""
