package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"modulate/workerd/keeper"
	"modulate/workerd/sandbox"
)

// A ground is where a kept job has its files.
type ground interface {
	// lay puts the script and its inputs into the working directory.
	lay(ctx context.Context, job Job) error
	// plan is what is started there.
	plan(job Job) (command, error)
	// collect lets f read what was left in the output directory.
	collect(ctx context.Context, f func(context.Context, *os.Root) error) error
	// socketAt is the path at which the script finds its socket.
	socketAt() string
	// listen returns that socket's listener.
	listen() (net.Listener, error)
	// name is what an adopter finds it by.
	name() string
	// give gives it up, with all that is in it; left: as it is, to an adopter,
	// and this process has nothing of it open any more.
	give(left bool) error
}

// A hostGround is a directory of the host: there is no sandbox.
type hostGround struct {
	spare
	k    *Kept
	file string // the script's name, where its file may be used again
}

func (g *hostGround) plan(job Job) (command, error) { return plan(job, g.jobDir, g.k.cfg.Path) }
func (g *hostGround) socketAt() string              { return g.socket() }
func (g *hostGround) name() string                  { return string(g.jobDir) }

// lay uses the file of the last script for this one: making and removing files
// is slow (see [Spares]).
func (g *hostGround) lay(ctx context.Context, job Job) error {
	if len(job.Command) > 0 {
		g.file = job.Name
	}
	return layOut(ctx, job, func(name string, mode fs.FileMode) (io.WriteCloser, error) {
		if name == g.file && g.script {
			g.script = false
			path := filepath.Join(g.work(), name)
			if os.Rename(g.waiting(), path) == nil {
				f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
				return overwritten{f}, err
			}
		}
		return g.create(name, mode)
	})
}

// An overwritten is a file whose old content ends where the new one does, once
// it is closed. What is emptied first ext4 writes to the disk as it is closed
// (auto_da_alloc in ext4(5)), and waits for the disk to empty it.
type overwritten struct{ *os.File }

// Close cuts off what was longer, and closes the file.
func (f overwritten) Close() error {
	end, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		err = f.Truncate(end)
	}
	return errors.Join(err, f.File.Close())
}

func (g *hostGround) listen() (net.Listener, error) { return lendAt(&g.door, g.socket(), false) }

// lendAt lends the door of a path, which it makes where there is none.
func lendAt(d **door, path string, everyone bool) (_ net.Listener, err error) {
	if *d == nil {
		if *d, err = newDoor(path, everyone); err != nil {
			return nil, err
		}
	}
	return (*d).lend(), nil
}

// takeBack takes a door back that was lent, if there is one, and has none left
// where it can be used no more.
func takeBack(d **door) {
	if *d != nil && !(*d).back() {
		(*d).Close()
		*d = nil
	}
}

func (g *hostGround) give(left bool) error {
	if left {
		return g.door.Close()
	}
	takeBack(&g.door)
	g.script = g.keepScript()
	if err := g.k.spares.give(g.spare); err != nil {
		return fmt.Errorf("removing the job's directory: %w", err)
	}
	return nil
}

// maxKeptScript bounds the file that is kept for the next script, in bytes.
const maxKeptScript = 64 << 10

// keepScript puts the script's file by, if it is still like a new one.
func (g *hostGround) keepScript() bool {
	if g.file == "" {
		return false
	}
	path := filepath.Join(g.work(), g.file)
	var stat unix.Stat_t
	return unix.Lstat(path, &stat) == nil && stat.Mode == unix.S_IFREG|0o600 && stat.Nlink == 1 &&
		stat.Uid == uint32(os.Geteuid()) && stat.Size <= maxKeptScript && os.Rename(path, g.waiting()) == nil
}

// A boxGround is the inside of a sandbox, by the descriptors of its
// directories.
type boxGround struct {
	*keeper.Cell
	client *keeper.Client
}

func (g boxGround) lay(ctx context.Context, job Job) error {
	err := layOut(ctx, job, func(name string, mode fs.FileMode) (io.WriteCloser, error) {
		fd, err := unix.Openat(int(g.Work.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, uint32(mode))
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), name)
		if g.UID != 0 {
			err = f.Chown(g.UID, g.UID)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	})
	if err == nil && len(job.Command) == 0 {
		err = g.executable(job.Name)
	}
	return err
}

// executable refuses what the kernel would: here a shell would run it instead.
func (g boxGround) executable(name string) error {
	fd, err := unix.Openat(int(g.Work.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	magic := make([]byte, 4)
	n, err := unix.Read(fd, magic)
	if start := string(magic[:max(n, 0)]); err == nil && !strings.HasPrefix(start, "#!") && start != "\x7fELF" {
		err = fmt.Errorf("%s is %w", name, ErrNotExecutable)
	}
	return err
}

func (g boxGround) plan(job Job) (command, error) {
	c := command{dir: sandbox.WorkDir}
	var err error
	if c.argv, c.path, err = words(job); err != nil {
		return command{}, err
	}
	if len(job.Command) == 0 {
		c.path = sandbox.WorkDir + "/" + job.Name
	}
	c.env = environ(job.Env, "MODULATE_OUTPUT="+sandbox.OutputDir, boxEnv())
	return c, nil
}

// boxEnv is what every script in a sandbox has in its environment.
func boxEnv() []string {
	return []string{"HOME=" + sandbox.WorkDir, "PATH=" + sandbox.Path, "TMPDIR=" + sandbox.TempDir}
}

func (g boxGround) collect(ctx context.Context, f func(context.Context, *os.Root) error) error {
	if g.Output == nil {
		return fmt.Errorf("what the script left is out of reach: %s", g.Error)
	}
	return collect(ctx, "/proc/self/fd/"+strconv.Itoa(int(g.Output.Fd()))+"/.", f)
}

func (boxGround) socketAt() string { return sandbox.SocketDir + "/" + socketName }

// listen uses the keeper's door, which its folder closes.
func (g boxGround) listen() (net.Listener, error) {
	d, _ := g.client.Door.(*door)
	l, err := lendAt(&d, g.client.Sockets()+"/"+socketName, true)
	g.client.Door = d
	return l, err
}

func (boxGround) name() string { return "" }

func (g boxGround) give(left bool) error {
	g.Close() // its directories, which the keeper has open too
	if left {
		return nil // its folder closes the keeper's door
	}
	d, _ := g.client.Door.(*door)
	takeBack(&d)
	g.client.Door = d
	return nil
}

// settle finds the ground for a job: for one in a sandbox the one that was made
// ahead or, where another interpreter waits in that, a new one.
func (k *Kept) settle(c *keeper.Client, job Job) (ground, error) {
	if k.cfg.Box == nil {
		dir, err := k.spares.take(k.cfg.Dir)
		return &hostGround{spare: dir, k: k}, err
	}
	ready := c.HasCell()
	cell, err := c.Cell()
	if err != nil {
		return nil, err
	}
	fits := cell.Parked && slices.Equal(job.Command, k.cfg.Park) && len(job.Devices) == 0
	if !ready || !fits {
		k.pool.cold.Add(1)
	}
	if fits {
		return boxGround{cell, c}, nil
	}
	cell.Close()
	cmd, err := boxGround{client: c}.plan(k.withSocket(job, boxGround{client: c}))
	if err != nil {
		return nil, err
	}
	c.Hold(keeper.Hold{Argv: append([]string{cmd.path}, cmd.argv[1:]...), Env: cmd.env, Devices: job.Devices})
	if cell, err = c.Cell(); err != nil {
		return nil, err
	}
	return boxGround{cell, c}, nil
}

// withSocket tells a job where its socket is, if it has one.
func (k *Kept) withSocket(job Job, g ground) Job {
	if job.Serve != nil {
		job.Env = append(slices.Clone(job.Env), "MODULATE_SOCKET="+g.socketAt())
	}
	return job
}

// serve has the socket of a job served, again for one that was adopted.
func (p *place) serve(job Job) error {
	if job.Serve == nil {
		return nil
	}
	l, err := p.ground.listen()
	if err != nil {
		return fmt.Errorf("making the script's socket: %w", err)
	}
	job.Serve(l, p.folder.Children())
	return nil
}
