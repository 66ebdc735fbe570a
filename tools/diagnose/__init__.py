"""Where mIoU is lost, and whether two runs differ, from saved label maps."""
