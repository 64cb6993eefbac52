"""Firmware from elsewhere: GitHub's REST API, a shared folder, a build of the commit itself."""
