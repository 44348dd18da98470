/* The interpreter of an ELF file (PT_INTERP) that has nothing to run: waits for a signal. */

#if defined(__x86_64__)
void _start(void)
{
	for (;;) /* pause(2) */
		__asm__ volatile("syscall" : : "a"(34L) : "rcx", "r11", "memory");
}
#endif
