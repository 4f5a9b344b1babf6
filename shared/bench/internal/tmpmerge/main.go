package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/sapflow/sapflow/shared/bench/internal/radio"
	"github.com/sapflow/sapflow/shared/bench/internal/report"
)

func main() {
	b, err := os.ReadFile("link.json")
	if err != nil {
		panic(err)
	}
	var r radio.Results
	if err := json.Unmarshal(b, &r); err != nil {
		panic(err)
	}
	if err := report.WriteSection("RESULTS.md", "link", r.Markdown()+os.Args[1]); err != nil {
		panic(err)
	}
	fmt.Println("ok")
}
