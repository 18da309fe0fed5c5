package modulate_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// grants are what a role may do, "ACTION on RESOURCE", and what of its process
// does that.
type grants map[string]string

const (
	mayCascade = "a promise that is cancelled or found past its deadline cancels its descendants: Store.Children"
	maySettle  = "a read past the deadline settles the promise: Store.Replace"
	mayLog     = "Lambda writes what the function prints"
	lookup     = "s3:ListBucket on Bucket"
	toFind     = "without it a missing blob reads as 403"
	notYet     = "no caller yet: "
)

// allowed is everything that each role may do. Who needs more says here why.
var allowed = map[string]grants{
	"RouterRole": {
		"dynamodb:GetItem on Table":            "Engine.Get; small results and old attempts: dynamoblob's Get",
		"dynamodb:PutItem on Table":            "Store.Create, Store.Replace, and the machines that had a promise",
		"dynamodb:ConditionCheckItem on Table": "a child is created in one transaction with a look at its parent: Store.ReplaceAll",
		"dynamodb:Query on Table":              mayCascade + "; and Roster.Machines",
		"dynamodb:Scan on Table":               "the protocol's searches: Store.Search",
		"sqs:GetQueueUrl on stage's queues":    "before the first message to a queue",
		"sqs:SendMessage on stage's queues":    "a new promise sends for a worker",
		"sqs:GetQueueUrl on SDK's queues":      "before the first message to a group",
		"sqs:SendMessage on SDK's queues":      "a task of another program sends for a worker of its group",
		"sqs:ListQueues on *":                  "which machines there are: Queue.Machines",
		"s3:PutObject on Bucket/sha256/*":      "sources and large inputs, signed uploads, what is made young again: Blobs.Put, Sign, Touch",
		"s3:GetObject on Bucket/sha256/*":      "Blobs.Stat, Touch; the input in an answer: Engine.Input",
		"s3:GetObject on Bucket/out/*":         "a large result or list of artifacts in an answer: Service.View",
		"s3:GetObject on Bucket/attempt/*":     "an old attempt that is no item (any more) is looked for here: BySize.Get",
		lookup:                                 toFind,
		"logs:CreateLogStream on RouterLogs":   mayLog,
		"logs:PutLogEvents on RouterLogs":      mayLog,
	},
	"StatusRole": {
		"dynamodb:GetItem on Table":                      "Engine.Get; small results, output and old attempts: dynamoblob's Get",
		"dynamodb:BatchGetItem on Table":                 "the records of a list: Store.List",
		"dynamodb:Query on Table":                        mayCascade + "; the roster; small output: dynamoblob's List",
		"dynamodb:PutItem on Table":                      maySettle + "; that somebody follows: Audience.Follow",
		"dynamodb:Query on Table/index/list":             "Store.List",
		"sqs:GetQueueUrl on stage's queues":              "before the depth of a queue",
		"sqs:GetQueueAttributes on stage's queues":       "how much waits: Queue.Depth",
		"sqs:GetQueueUrl on stage's dead letters":        "before the depth of a queue",
		"sqs:GetQueueAttributes on stage's dead letters": "how many are dead: Queue.Depth",
		"sqs:ListQueues on *":                            "which machines there are: Queue.Machines",
		"s3:GetObject on Bucket/sha256/*":                "the input in an answer: Engine.Input",
		"s3:GetObject on Bucket/out/*":                   "results, and artifacts, whose downloads are signed with this right",
		"s3:GetObject on Bucket/log/*":                   "output",
		"s3:GetObject on Bucket/attempt/*":               "an old attempt that is no item (any more) is looked for here: BySize.Get",
		lookup:                                           "Blobs.List; " + toFind,
		"logs:CreateLogStream on StatusLogs":             mayLog,
		"logs:PutLogEvents on StatusLogs":                mayLog,
	},
	"SweeperRole": {
		"dynamodb:GetItem on Table":           "each promise that is due: Store.Get",
		"dynamodb:PutItem on Table":           "what time has changed: Store.Replace",
		"dynamodb:Query on Table":             mayCascade,
		"dynamodb:Query on Table/index/due":   "Store.Due",
		"sqs:GetQueueUrl on stage's queues":   "before the first message to a queue",
		"sqs:SendMessage on stage's queues":   "what was lost is sent again",
		"sqs:GetQueueUrl on SDK's queues":     "before the first message to a group",
		"sqs:SendMessage on SDK's queues":     "a task of another program whose worker was lost, or whose sleep is over",
		"logs:CreateLogStream on SweeperLogs": mayLog,
		"logs:PutLogEvents on SweeperLogs":    mayLog,
	},
	"WorkerRole": workerGrants(),
}

// workerGrants are those of an instance: of workerd, and of what its user data
// runs.
func workerGrants() grants {
	const (
		ownGroup = " on Fleet if map[StringEquals:map[autoscaling:ResourceTag/modulate-machine:map[Ref:Machine] autoscaling:ResourceTag/modulate-stage:map[Ref:Stage]]]"
		roster   = " if map[ForAllValues:StringEquals:map[dynamodb:LeadingKeys:[#worker]]]"
	)
	g := grants{
		"dynamodb:GetItem on Table":                                  "Store.Get, Audience.Followed",
		"dynamodb:PutItem on Table":                                  "claims, leases and outcomes: Store.Replace; small results and output; Roster.Announce",
		"dynamodb:Query on Table":                                    mayCascade + "; where adopted output stands: dynamoblob's List",
		"dynamodb:DeleteItem on Table" + roster:                      "Roster.Retire",
		"s3:GetObject on Bucket/sha256/*":                            "scripts and inputs",
		"s3:GetObject on Bucket/workerd/*":                           "the user data installs workerd",
		"s3:PutObject on Bucket/out/*":                               "results and artifacts of more than 8 KB",
		"s3:PutObject on Bucket/log/*":                               "output of more than 8 KB",
		lookup:                                                       "Cloud.Check; where adopted output stands: Blobs.List; " + toFind,
		"execute-api:Invoke on Api/*/POST/v1/*":                      "scripts submit through MODULATE_SOCKET",
		"execute-api:Invoke on Api/*/POST/work":                      "workerd --gateway signs for programs with a Resonate SDK",
		"execute-api:Invoke on Api/*/GET/v1/*":                       "scripts read through MODULATE_SOCKET",
		"autoscaling:SetInstanceProtection" + ownGroup:               notYet + "an instance that is idle ends itself",
		"autoscaling:TerminateInstanceInAutoScalingGroup" + ownGroup: notYet + "an instance that is idle ends itself",
		"logs:CreateLogStream on Logs":                               "the CloudWatch agent",
		"logs:DescribeLogStreams on Logs":                            "the CloudWatch agent",
		"logs:PutLogEvents on Logs":                                  "the CloudWatch agent",
	}
	for action, why := range map[string]string{
		"sqs:GetQueueUrl":             "before the first request of a queue",
		"sqs:ReceiveMessage":          "Queue.Receive",
		"sqs:ChangeMessageVisibility": "Queue.Extend",
		"sqs:DeleteMessage":           "Queue.Delete",
		"sqs:SendMessage":             "retries, and Queue.Bury",
	} {
		g[action+" on Queue"] = why
		g[action+" on DeadLetters"] = why
		g[action+" on SDK's queue"] = "workerd --gateway hands on the tasks of other programs; " + why
	}
	return g
}

// roles holds each role against what is allowed: nothing more, nothing less.
func roles(tmpl object) (found []string) {
	for name, r := range resources(tmpl, "AWS::IAM::Role") {
		has := map[string]bool{}
		walkObjects(at(r, "Policies"), func(statement object) {
			for _, action := range list(statement["Action"]) {
				for _, resource := range list(statement["Resource"]) {
					has[fmt.Sprintf("%v on %s", action, resourceName(resource)+condition(statement))] = true
				}
			}
		})
		for grant := range has {
			if allowed[name][grant] == "" {
				found = append(found, fmt.Sprintf("%s may %s; roles_test.go knows of nothing that does", name, grant))
			}
		}
		for grant, why := range allowed[name] {
			if !has[grant] {
				found = append(found, fmt.Sprintf("%s may not %s, which is for: %s", name, grant, why))
			}
		}
	}
	slices.Sort(found)
	return found
}

func condition(statement object) string {
	if statement["Condition"] == nil {
		return ""
	}
	return fmt.Sprint(" if ", statement["Condition"])
}

// resourceName is how allowed calls a resource of a policy.
func resourceName(resource any) string {
	if attribute, ok := at(resource, "Fn::GetAtt").(string); ok {
		return strings.TrimSuffix(attribute, ".Arn")
	}
	sub := at(resource, "Fn::Sub")
	if parts := list(sub); len(parts) == 2 { // with names of its own
		sub = parts[0]
	}
	name, ok := sub.(string)
	if !ok {
		return fmt.Sprint(resource)
	}
	const place = ":${AWS::Region}:${AWS::AccountId}:"
	return strings.NewReplacer(
		"arn:${AWS::Partition}:s3:::modulate-${Stage}-${AWS::AccountId}-${AWS::Region}", "Bucket",
		"arn:${AWS::Partition}:dynamodb"+place+"table/modulate-${Stage}", "Table",
		"arn:${AWS::Partition}:execute-api"+place+"${Api}", "Api",
		"arn:${AWS::Partition}:autoscaling"+place+"autoScalingGroup:*:autoScalingGroupName/modulate-${Stage}-${Machine}", "Fleet",
		"arn:${AWS::Partition}:sqs"+place+"modulate-sdk-${Stage}-${Machine}", "SDK's queue",
		"arn:${AWS::Partition}:sqs"+place+"modulate-sdk-${Stage}-*", "SDK's queues",
		"arn:${AWS::Partition}:sqs"+place+"modulate-dlq-${Stage}-*", "stage's dead letters",
		"arn:${AWS::Partition}:sqs"+place+"modulate-${Stage}-*", "stage's queues",
		"${Bucket.Arn}", "Bucket",
		"${Table.Arn}", "Table",
	).Replace(name)
}

// TestTemplatesRoles wants every role that is allowed something to be in a
// template.
func TestTemplatesRoles(t *testing.T) {
	there := map[string]object{}
	for _, name := range []string{stageTemplate, machineTemplate} {
		tmpl, err := parseTemplate(read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(there, resources(tmpl, "AWS::IAM::Role"))
	}
	for name := range allowed {
		if there[name] == nil {
			t.Errorf("no template has %s", name)
		}
	}
}

// TestTemplatesLint asks what AWS knows of its resources.
func TestTemplatesLint(t *testing.T) {
	if testing.Short() {
		t.Skip("takes about 10 s")
	}
	sam, err := filepath.Abs(".emulators/sam/bin/sam")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(sam); err != nil {
		if os.Getenv("CI") == "1" {
			t.Fatalf("%v: run make emulators", err)
		}
		t.Skipf("%v: run make emulators", err)
	}
	for _, name := range []string{stageTemplate, machineTemplate} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			validate := exec.Command(sam, "validate", "--lint", "--region", "us-east-1", "--template-file", name)
			validate.Env = append(os.Environ(), "SAM_CLI_TELEMETRY=0", "AWS_EC2_METADATA_DISABLED=true", "HOME="+t.TempDir())
			if out, err := validate.CombinedOutput(); err != nil {
				t.Errorf("sam validate --lint: %v\n%s", err, out)
			}
		})
	}
}
