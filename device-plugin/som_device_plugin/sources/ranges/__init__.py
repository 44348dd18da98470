"""Pools of physical ranges in som.ko: devdax devices, reserved ranges, carved memory."""
