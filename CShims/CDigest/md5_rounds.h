// The 64 steps of MD5 (RFC 1321, 3.4), for any type with +, &, |, ^ and ~. Before inclusion:
// STEP(f, a, b, c, d, word, shift, constant) performs one, with f one of the four below.
#define MD5_F(b, c, d) (((b) & (c)) | (~(b) & (d)))
#define MD5_G(b, c, d) (((d) & (b)) | (~(d) & (c)))
#define MD5_H(b, c, d) ((b) ^ (c) ^ (d))
#define MD5_I(b, c, d) ((c) ^ ((b) | ~(d)))

#define MD5_FOUR(f, i, j, k, l, s, t, u, v, ki, kj, kk, kl) \
    STEP(f, a, b, c, d, i, s, ki) \
    STEP(f, d, a, b, c, j, t, kj) \
    STEP(f, c, d, a, b, k, u, kk) \
    STEP(f, b, c, d, a, l, v, kl)

#define MD5_ALL_STEPS \
    MD5_FOUR(MD5_F, 0, 1, 2, 3, 7, 12, 17, 22, \
        0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee) \
    MD5_FOUR(MD5_F, 4, 5, 6, 7, 7, 12, 17, 22, \
        0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501) \
    MD5_FOUR(MD5_F, 8, 9, 10, 11, 7, 12, 17, 22, \
        0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be) \
    MD5_FOUR(MD5_F, 12, 13, 14, 15, 7, 12, 17, 22, \
        0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821) \
    MD5_FOUR(MD5_G, 1, 6, 11, 0, 5, 9, 14, 20, \
        0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa) \
    MD5_FOUR(MD5_G, 5, 10, 15, 4, 5, 9, 14, 20, \
        0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8) \
    MD5_FOUR(MD5_G, 9, 14, 3, 8, 5, 9, 14, 20, \
        0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed) \
    MD5_FOUR(MD5_G, 13, 2, 7, 12, 5, 9, 14, 20, \
        0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a) \
    MD5_FOUR(MD5_H, 5, 8, 11, 14, 4, 11, 16, 23, \
        0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c) \
    MD5_FOUR(MD5_H, 1, 4, 7, 10, 4, 11, 16, 23, \
        0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70) \
    MD5_FOUR(MD5_H, 13, 0, 3, 6, 4, 11, 16, 23, \
        0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05) \
    MD5_FOUR(MD5_H, 9, 12, 15, 2, 4, 11, 16, 23, \
        0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665) \
    MD5_FOUR(MD5_I, 0, 7, 14, 5, 6, 10, 15, 21, \
        0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039) \
    MD5_FOUR(MD5_I, 12, 3, 10, 1, 6, 10, 15, 21, \
        0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1) \
    MD5_FOUR(MD5_I, 8, 15, 6, 13, 6, 10, 15, 21, \
        0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1) \
    MD5_FOUR(MD5_I, 4, 11, 2, 9, 6, 10, 15, 21, \
        0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391)
