package trace

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// Occupancy reads the recorded office: six sensors, one reading a minute.
func Occupancy(path string) ([]frame.Entry, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	rows := csv.NewReader(unpacked)
	if _, err := rows.Read(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var list []frame.Entry
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		t, err := time.Parse(time.RFC3339Nano, row[0])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		v, err := strconv.ParseFloat(row[4], 64)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		list = append(list, frame.Entry{Point: point.Point{
			Series:   point.Series{Node: row[1], Type: row[2], Key: row[3]},
			Time:     point.Nanos(t),
			DataType: point.Float, Data: point.FloatData(v),
		}})
	}
}
