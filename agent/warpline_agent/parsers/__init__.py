"""Pure readers of one text or byte format each: no file is opened here, nothing foreign is trusted."""
