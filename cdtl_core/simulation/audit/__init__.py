"""The privacy audit: train on canaries with the shipped mechanism and guess which were included."""
