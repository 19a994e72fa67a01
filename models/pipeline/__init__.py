"""Builds the models that Fleetmend ships."""
