/* workload ADDRESS PORT...: sends numbered datagrams to each of the ports, from its first instruction on and for ever.
 * A number, big-endian, is counted as soon as the kernel has taken the datagram, be it to drop it; the first is 1. */

#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	struct sockaddr_in to4 = { .sin_family = AF_INET };
	struct sockaddr_in6 to6 = { .sin6_family = AF_INET6 };
	if (count < 3)
		return 2;
	int is_ipv6 = inet_pton(AF_INET6, arguments[1], &to6.sin6_addr) == 1;
	if (!is_ipv6 && inet_pton(AF_INET, arguments[1], &to4.sin_addr) != 1)
		return 2;
	const struct sockaddr *to = is_ipv6 ? (void *)&to6 : (void *)&to4;
	socklen_t size = is_ipv6 ? sizeof(to6) : sizeof(to4);
	int fd = socket(to->sa_family, SOCK_DGRAM, 0);
	for (uint32_t number = 1;; number++) {
		uint32_t data = htonl(number);
		for (int i = 2; i < count; i++) {
			to4.sin_port = to6.sin6_port = htons(atoi(arguments[i]));
			/* There is no route before there is a network. */
			while (sendto(fd, &data, sizeof(data), 0, to, size) < 0)
				usleep(1000);
		}
		/* The first ones are what counts; of the others many would fill the sets that note them. */
		usleep(number < 20 ? 20000 : 200000);
	}
}
