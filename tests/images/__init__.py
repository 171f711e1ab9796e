"""The real containers: built on a fresh Debian, listed, attacked, and used for a study (`make images`)."""
