"""The picture on a line that is bad in every way at once; `make media-stress`."""
