aarch64-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0
