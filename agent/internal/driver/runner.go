package driver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// runner runs one driver again and again.
type runner struct {
	kind   *Kind
	port   *Port
	cancel context.CancelFunc
}

// errEnded is for a driver that returns without being asked.
var errEnded = errors.New("the driver ended")

func (r *runner) run(ctx context.Context) {
	defer r.port.close()
	wait := r.port.m.cfg.RetryLeast
	for {
		began := time.Now()
		err := r.once(ctx)
		if ctx.Err() != nil {
			return
		}
		r.port.Fail(r.port.id, err)
		r.port.flush()
		if time.Since(began) > ranWell {
			wait = r.port.m.cfg.RetryLeast
		}
		t := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
			wait = min(2*wait, retryMost)
		case <-r.port.changed: // perhaps that mends it
			t.Stop()
		}
	}
}

// once runs the driver until it ends, or falls over.
func (r *runner) once(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the driver fell over: %v", v)
			r.port.Log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Msg("driver fell over")
		}
	}()
	if err := r.kind.New().Run(ctx, r.port); err != nil {
		return err
	}
	return errEnded
}
