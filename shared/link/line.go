package link

import "time"

// line is what a peer has learnt about the line from its acks: how fast it is,
// how far, and how many bytes a point takes. The zero line knows nothing and
// begins with small frames.
type line struct {
	rate  float64       // bytes a second, 0 if not known
	trip  time.Duration // shortest way there and back, 0 if not known
	dense float64       // bytes a point of large frames, 0 if not known

	size, count int // of the parcel in flight
	at          time.Time
}

const (
	// assumedRate is the slowest line that the link is made for, 20 kbit/s,
	// in bytes per second. A line is taken for that until it shows otherwise.
	assumedRate = 2500
	assumedTrip = 300 * time.Millisecond
	assumedSize = 4.0 // bytes a point
	// overhead is about what a parcel and its ack take besides.
	overhead = 130
	// A frame takes about twelve round trips of the line, so that waiting for
	// the ack costs little, but not so long that pings or newest values wait.
	tripsPerFrame = 12
	shortestFrame = time.Second
	longestFrame  = 4 * time.Second
	// measurable is the size from which a parcel tells the rate of a line.
	measurable = 1000
)

// sent notes that a parcel goes out.
func (l *line) sent(size, points int) { l.size, l.count, l.at = size, points, time.Now() }

// answered notes that it was acked.
func (l *line) answered() {
	took := time.Since(l.at)
	if l.trip == 0 || took < l.trip {
		l.trip = max(took, time.Microsecond)
	} else if l.size < measurable {
		l.trip += (took - l.trip) / 16 // the line may have become longer
	}
	if l.size < measurable {
		return
	}
	if moved := took - l.trip; moved > 0 {
		rate := float64(l.size+overhead) / moved.Seconds()
		if l.rate == 0 {
			l.rate = rate
		}
		l.rate += (rate - l.rate) / 4
	}
	if l.count >= 100 {
		dense := float64(l.size) / float64(l.count)
		if l.dense == 0 {
			l.dense = dense
		}
		l.dense += (dense - l.dense) / 4
	}
}

// expected is how long the parcel in flight should take to be acked.
func (l *line) expected() time.Duration {
	rate, trip := l.rate, l.trip
	if rate == 0 {
		rate = assumedRate
	}
	if trip == 0 {
		trip = assumedTrip
	}
	return trip + time.Duration(float64(l.size+overhead)/rate*float64(time.Second))
}

// points is how many points the next frame should have.
func (l *line) points() int {
	rate, trip := l.rate, l.trip
	if rate == 0 {
		rate, trip = assumedRate, assumedTrip
	}
	d := min(max(tripsPerFrame*trip, shortestFrame), longestFrame)
	bytes := max(rate*d.Seconds(), 2*measurable) // smaller ones would not tell the rate
	return max(1, min(framePoints, int(bytes/l.perPoint())))
}

func (l *line) perPoint() float64 {
	if l.dense == 0 {
		return assumedSize
	}
	return l.dense
}

// bytes is about what a frame of n points takes.
func (l *line) bytes(n int) int { return overhead + int(float64(n)*l.perPoint()) }
