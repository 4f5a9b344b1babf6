module github.com/sapflow/sapflow/shared/bench

go 1.26.0

require github.com/sapflow/sapflow v0.0.0

replace github.com/sapflow/sapflow => ../..
