"""The terminal screen in a browser: who may come, one program for each who does, and the page it is drawn on."""
