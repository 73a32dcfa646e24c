//! One VM process from start to end: the pool's holder, guest RAM, the machine and its control socket.
