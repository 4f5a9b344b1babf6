package history

import (
	"context"
	"iter"
	"sort"
)

// Merged visits what some columns of one series have at a place or behind it,
// before a time, all together in the order of their places. Each piece is of
// one column.
func (a *Archive) Merged(ctx context.Context, numbers []int, from Place, to uint64, visit func(number int, p *Piece) error) error {
	var err error
	list := make([]*source, 0, len(numbers))
	for _, n := range numbers {
		author, start := a.nameOf(n).Author, from.Time
		if author < from.Author {
			start++
		}
		next, stop := iter.Pull(func(yield func(*Piece) bool) {
			e := a.Read(ctx, n, start, to, false, func(p *Piece) error {
				if !yield(p) {
					return errStop
				}
				return nil
			})
			if e != nil && e != errStop && err == nil {
				err = e
			}
		})
		defer stop()
		s := &source{number: n, author: author, next: next}
		s.advance()
		list = append(list, s)
	}
	for err == nil {
		first, second := firstTwo(list)
		if first == nil {
			return nil
		}
		p := first.piece
		if second == nil || p.To() < second.piece.From() {
			first.advance()
		} else if part, failed := first.take(ctx, second); failed != nil {
			return failed
		} else {
			p = part
		}
		if err == nil && p.Count() > 0 {
			err = visit(first.number, p)
		}
	}
	return err
}

// source is one column of a merge.
type source struct {
	number int
	author string
	next   func() (*Piece, bool)
	piece  *Piece // what comes next; nil at the end
}

func (s *source) advance() { s.piece, _ = s.next() }

func (s *source) place() Place { return Place{s.piece.From(), s.author} }

// firstTwo returns the sources that come next, nil for those that are at their
// ends.
func firstTwo(list []*source) (first, second *source) {
	for _, s := range list {
		switch {
		case s.piece == nil:
		case first == nil || s.place().Compare(first.place()) < 0:
			first, second = s, first
		case second == nil || s.place().Compare(second.place()) < 0:
			second = s
		}
	}
	return first, second
}

// take takes the points that come before those of another source.
func (s *source) take(ctx context.Context, other *source) (*Piece, error) {
	c, err := s.piece.Points(ctx)
	if err != nil {
		return nil, err
	}
	until := other.place()
	n := sort.Search(c.Len(), func(i int) bool { return Place{c.Times[i], s.author}.Compare(until) > 0 })
	if s.piece = nil; n < c.Len() {
		s.piece = &Piece{points: part(c, n, c.Len())}
	} else {
		s.advance()
	}
	return &Piece{points: part(c, 0, n)}, nil
}
