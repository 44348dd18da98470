/* Waits for a signal to end; the first process of a pod, and of the cluster's PID namespace. */
#include <signal.h>
#include <unistd.h>

static void end(int signal)
{
	_exit(signal == SIGTERM ? 0 : 1);
}

int main(void)
{
	signal(SIGCHLD, SIG_IGN); /* The kernel then reaps orphans at once. */
	signal(SIGTERM, end);
	signal(SIGINT, end);
	for (;;)
		pause();
}
