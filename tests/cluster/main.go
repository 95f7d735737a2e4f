// Command cluster is a Kubernetes control plane in one program: its first argument, or the name it is called by,
// says which of etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy and kubectl it is.
//
// Each is the public command of the Kubernetes (or etcd) module itself, so that what the tests meet is what runs in
// production. One program instead of six shares what they have in common: 125 MB and one link.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// components maps a name to its main function, which finds os.Args as its own program would.
var components = map[string]func() int{
	"etcd":                    etcd,
	"kube-apiserver":          run(apiserver.NewAPIServerCommand),
	"kube-controller-manager": run(controllermanager.NewControllerManagerCommand),
	"kube-proxy":              run(proxy.NewProxyCommand),
	"kube-scheduler":          run(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubectl":                 run(kubectl.NewDefaultKubectlCommand),
}

func main() {
	if component, ok := components[filepath.Base(os.Args[0])]; ok {
		os.Exit(component())
	}
	if len(os.Args) > 1 {
		if component, ok := components[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			os.Exit(component())
		}
	}
	fmt.Fprintf(os.Stderr, "usage: %s COMPONENT [ARGUMENT...]\nCOMPONENT is one of: %s\n", os.Args[0], names())
	os.Exit(2)
}

// etcd ends the process itself when it fails.
func etcd() int {
	etcdmain.Main(os.Args)
	return 0
}

// run builds a command only when it is the one wanted: each registers its feature gates where there is room for one.
func run(command func() *cobra.Command) func() int {
	return func() int { return cli.Run(command()) }
}

func names() string {
	all := make([]string, 0, len(components))
	for name := range components {
		all = append(all, name)
	}
	sort.Strings(all)
	return strings.Join(all, ", ")
}
