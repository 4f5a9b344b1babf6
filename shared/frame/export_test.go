package frame

// EncodeV1 returns the bytes of a frame in version 1.
func EncodeV1(f *Frame) []byte { return f.encodeV1() }
